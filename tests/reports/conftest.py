"""The browser, for the tests in this folder."""

from tests.reports.browser import browser as browser
