"""What a program means: data types, expressions, logical operators, plan text. Not how it runs."""
