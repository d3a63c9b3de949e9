"""What tests share: real peers and helpers that are no tests themselves."""
