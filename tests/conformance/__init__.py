"""What every backend must do, whatever it stores its users in."""
