"""What every store must do, and what is special to one."""
