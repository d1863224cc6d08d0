"""What trains, prunes and exports: the only room that imports torch."""
