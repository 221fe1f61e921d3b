//! Fleets and walks that the measurements share.
