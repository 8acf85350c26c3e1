"""The paper's test protocol on a labelled image set: predictions, errors, and the uncertainty of the errors."""
