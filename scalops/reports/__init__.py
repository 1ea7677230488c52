"""Plans and models for readers outside a terminal: DOT, Mermaid, pages of HTML."""
