//! The verbs on the CPU.

pub mod naive;
