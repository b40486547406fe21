"""The report: statistics over final runs, tables and figures, Markdown and HTML; free of torch."""
