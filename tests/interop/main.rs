//! Do other programs agree: what they wrote is read, what vmimg wrote they judge.

mod guest;
mod lock;
mod partition;
