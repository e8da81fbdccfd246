# Later than `order: last`: a number with a point does not move what `last` is.
failures-explained:
  failures.explained:
    - order: 1.0e+12
