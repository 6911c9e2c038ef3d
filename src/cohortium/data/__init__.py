"""From a hospital's files to records that training can use, at the site."""
