"""The Recipes screen: the library, forms made from the schemas, checks and estimates."""
