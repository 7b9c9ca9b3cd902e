//! A node of bruit: the queue, its shells, and the one place where they are wired.
mod config;
pub mod env;
pub use config::{Config, Durability, DurabilityRule, JournalConfig, Limits};
