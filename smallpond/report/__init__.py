"""What people see of a run: live progress, explain, the HTML report."""
