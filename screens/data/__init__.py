"""The Data screen: datasets and versions, the data report, the loss mask, SQL."""
