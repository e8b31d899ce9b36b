"""What ``tst-lightning inspect`` shows of a prepared corpus."""
