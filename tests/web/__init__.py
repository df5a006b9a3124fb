"""HTTP: routes, answers, pages."""
