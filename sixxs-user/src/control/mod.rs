//! The control plane: requests to the daemon, the server and the client of the control socket, and the types
//! that both exchange.

pub mod api;
pub mod client;
pub(crate) mod connection_limiter;
mod connections;
mod request;
mod server;
pub mod text;

pub(crate) use request::ask;
pub use request::{ActionError, Answer, Outcome, Quit, Request, Requests, Verb};
pub(crate) use server::CONFIRM_SECONDS;
pub use server::{DaemonHandle, listen};
