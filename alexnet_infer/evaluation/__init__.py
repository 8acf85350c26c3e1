"""The paper's test protocol on a labelled image set: predictions, their figures, and the figures' margins."""
