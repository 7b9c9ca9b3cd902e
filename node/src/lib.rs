//! A node of bruit: a message queue that speaks NSQ and keeps what it acknowledged.
pub mod broker;
mod config;
pub mod env;
pub mod journal;
pub use config::{Config, Durability, DurabilityRule, JournalConfig, Limits};
