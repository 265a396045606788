//! Progress of a measurement, if standard error is a terminal. The bar is drawn between measurements, never
//! during one.

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

/// A bar for a loop with this number of turns; it is removed at the end.
pub(crate) fn bar(what: &'static str, turns: u64) -> ProgressBar {
    let bar = ProgressBar::new(turns)
        .with_message(what)
        .with_finish(ProgressFinish::AndClear);
    // An invalid template would be a bug here; the bar then has the default style.
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}, {eta} left") {
        bar.set_style(style);
    }
    bar
}
