//! Do other programs agree: what they wrote is read, what vmimg wrote they judge.

mod domain;
mod guest;
mod lock;
mod partition;
