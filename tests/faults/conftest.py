"""One line that says how the kills ended."""


def pytest_terminal_summary(terminalreporter):
    """``20 of 20 killed runs ended bit-identical``, if any were killed."""
    outcomes = {
        outcome: [
            report
            for report in terminalreporter.stats.get(outcome, [])
            if "::test_a_killed_" in getattr(report, "nodeid", "")
        ]
        for outcome in ("passed", "failed", "error")
    }
    if killed := sum(map(len, outcomes.values())):
        terminalreporter.write_line(f"{len(outcomes['passed'])} of {killed} killed runs ended bit-identical")
