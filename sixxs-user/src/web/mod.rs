//! Requests to web servers: for hooks, for endpoint updates and for the data of tunnels at a broker.
//!
//! Redirects are not followed, and a response is read up to a limit. Time limits are the caller's.
//!
//! Tasks: none.

mod client;
pub(crate) mod tls;

pub(crate) use client::{Answer, Message, Route, basic_authorization, exchange, open};
