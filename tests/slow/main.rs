//! Whole distributions, without KVM: minutes, so `scripts/test --slow` runs them.

mod debian;
