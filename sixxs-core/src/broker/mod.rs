//! What a tunnel broker speaks, without IO: bytes and time in; bytes, timers and outcomes out.
//!
//! Nothing here opens a socket, reads a file or asks a clock.
