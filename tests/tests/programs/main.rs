//! Runs packets through the kernel programs with `BPF_PROG_TEST_RUN`.

mod golden;

mod carry;
mod decided;
mod events;
mod tunnels;
mod uplinks;
