"""What `kvqueue doctor` looks for, each from records that it is given."""
