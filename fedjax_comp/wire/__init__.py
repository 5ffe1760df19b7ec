"""The wire: fields, their exact cost, their codes, and messages as bytes."""
