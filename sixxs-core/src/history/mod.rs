//! The history of tunnels: a record per minute and tunnel, for 400 days. Pure; times are arguments.
//!
//! * [`ring`] – the layout of a tunnel's file: which place the record of a minute has
//! * [`file_name`] – the name of that file
//! * [`record`] – the record of a minute, in 8 bytes
//! * [`cause`] – why a tunnel failed, in a few words
//! * [`recorder`] – makes the records from observations
//! * [`summary`] – availability by hour and day, and outages
//!
//! A minute without a record is unknown: the daemon did not run, or the record was lost. It does not count as an outage, nor
//! in the availability.

pub mod cause;
pub mod file_name;
pub mod minute;
pub mod record;
pub mod recorder;
pub mod ring;
mod scale;
pub mod summary;

pub use cause::Cause;
pub use minute::Minute;
pub use record::{Record, Share, State};
pub use recorder::{Ended, Observation, Recorder};
pub use summary::{Availability, Day, LastDay, Outage, Summary, Totals};
