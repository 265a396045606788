//! Owns terminals: pseudo-terminals and tmux for programs that draw, pictures of their screens, and the
//! screen and ctrl-C of the lab's own commands.

pub mod interrupt;
pub mod pty;
pub mod screen;
pub mod svg;
pub mod tmux;
