//! Text output: the same data as the JSON, for a terminal of 80 columns.

mod alert;
mod groups;
mod lines;
mod numbers;
mod status;

use crate::control::api::Counters;

pub use alert::alert;
pub(crate) use alert::{leaked_packets, sender};
pub(crate) use groups::links;
pub use lines::wrapped;
pub(crate) use lines::{WIDTH, fitting, push_line};
pub(crate) use numbers::{counted, short_time};
pub use status::status;

/// The output of `sixxs counters`: counters that are not zero, or all.
#[must_use]
pub fn counters(counters: &Counters, all: bool) -> String {
    let mut text = String::new();
    for (interface, values) in &counters.interfaces {
        push_line(&mut text, interface);
        for (name, value) in values.iter().filter(|(_, value)| all || **value != 0) {
            push_line(&mut text, &format!("  {name:<26} {value:>20}"));
        }
    }
    text
}
