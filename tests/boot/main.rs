//! Does a real guest see what was seeded? Tiny guests, without KVM, of an ordinary user.

mod seeded;
