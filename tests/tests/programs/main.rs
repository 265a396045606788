//! Runs packets through the kernel programs with `BPF_PROG_TEST_RUN`.

mod golden;

mod answers;
mod carry;
mod decided;
mod events;
mod outer_traffic;
mod screening;
mod tunnels;
mod uplinks;
