//! Packets through the kernel programs, by `BPF_PROG_TEST_RUN`.

mod golden;

mod decided;
mod events;
mod tunnels;
mod uplinks;
