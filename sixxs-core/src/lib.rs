//! The decisions of the reply-path enforcer, as pure functions over data.
//!
//! Nothing here does IO, reads a clock or keeps a task: bytes, observations and time come in,
//! plans and texts go out. The shell around it is `sixxs-user`.
//!
//! * [`config`] – the configuration file, parsed once into [`config::Config`]
//! * [`diagnostics`] – faults in files, by line and key
//! * [`aiccu`] – the configuration file of the AICCU client
//! * [`broker`] – the protocols of tunnel brokers, without IO
//! * [`secret`] – passwords
//! * [`link`] – network interfaces as they were observed
//! * [`routing`] – which rules and routes should be there, what is there, and the plan between them
//! * [`enforce`] – what the kernel programs should know
//! * [`tunnel`] – the state of a tunnel, as people see it
//! * [`alert`] – leaks merged into lines
//! * [`pace`] – how soon and how often to look again
//! * [`proof`] – whether a tunnel answers, by what the kernel paired
//! * [`contest`] – when somebody keeps taking away what is put back
//! * [`flood`] – alerts of one cause, when they come without end
//! * [`culprit`] – who a control group belongs to
//! * [`doctor`] – what on a host is in the way
//! * [`explain`] – the way that a packet takes, and why it is not the right one
//! * [`host`] – whose name a web client asks for
//! * [`table_names`] – the file that gives routing tables their names

pub mod aiccu;
pub mod alert;
pub mod broker;
pub mod change;
pub mod config;
pub mod contest;
pub mod culprit;
pub mod diagnostics;
pub mod doctor;
pub mod enforce;
pub mod explain;
pub mod flood;
pub mod health;
pub mod host;
pub mod lasting;
pub mod link;
pub mod pace;
pub mod proof;
pub mod routing;
pub mod secret;
pub mod table_names;
pub mod tunnel;
pub mod types;
