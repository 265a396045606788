//! HTTP over TCP: the metrics and the page, read only. Without an address in the configuration nothing listens.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | the page, with `/page.css`, `/page.js` and `/icon.svg` |
//! | `GET /events` | the state and the rates, as server-sent events |
//! | `GET /history?tunnel=NAME` | the history of a tunnel, as JSON |
//! | `GET /metrics` | the metrics, in OpenMetrics' text format |
//!
//! * [`server`] – the listener, its connections and their limits
//! * [`names`] – the host names that are served
//! * [`guard`] – which requests are refused
//! * [`answers`] – the answer to each request, and its headers
//! * [`files`] – the files of the page
//! * [`feed`] – reads the status for all clients of `/events` together
//! * [`view`] – the part of the status that the page shows
//! * [`rates`] – rates and shares from counters
//! * [`history`] – the history of a tunnel, from its file

mod answers;
mod feed;
mod files;
#[cfg(test)]
mod fixture;
mod guard;
mod history;
mod names;
mod rates;
mod server;
mod view;

pub(crate) use answers::Site;
pub(crate) use server::Server;
