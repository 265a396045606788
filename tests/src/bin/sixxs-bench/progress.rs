//! How far a measurement is, where standard error is a terminal. It is drawn between what is measured,
//! never beside it.

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

/// A bar for so many turns of a loop; it goes when they are over.
pub(crate) fn bar(what: &'static str, turns: u64) -> ProgressBar {
    let bar = ProgressBar::new(turns)
        .with_message(what)
        .with_finish(ProgressFinish::AndClear);
    // A template that cannot be read would be our mistake; the bar then looks otherwise.
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}, {eta} left") {
        bar.set_style(style);
    }
    bar
}
