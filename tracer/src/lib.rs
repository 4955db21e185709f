//! tracer: how TCP connections end on this host, measured.
//!
//! Data goes one way, with no way back:
//!
//! ```text
//! kernel hooks ─> ring ─> reader ─> decode ─> stream ─> engine ─> filter ─> output ─> stdout
//!                 probes                   ↑  └─────── pipeline ────────────┘         sink
//! sock_diag ──────> inventory ─────────────┤
//! cgroup2, /proc ─> attribution ───────────┤
//! /proc/sys, /proc/net ─> readings ────────┘
//! ```
//!
//! [`probes`] loads and attaches, [`reader`] copies the ring's records out, [`decode`] makes
//! [`stream`] records of them; [`inventory`] adds which sockets there are, at the start and whenever
//! events were lost, [`attribution`] what the events that follow name by number is called, and
//! [`readings`] the settings and counters of each network namespace. From there on nothing knows a
//! kernel: [`pipeline`] feeds the [`engine`], which does no I/O and reads no clock, and hands what
//! that finishes to a [`consumer`]: an [`output`] format writes [`record`]s, a [`diagnosis`] keeps
//! account of [`ports`] and of what was seen, and asks its rules; the [`daemon`]'s counts [`metrics`]
//! and keeps a [`history`], and an [`exporter`] sends
//! them to an OpenTelemetry collector. [`agent`] is the one loop around all of it; [`survey`] makes `tracer ports` of one inventory, without any event.

pub mod agent;
pub mod attribution;
pub mod btf;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod consumer;
pub mod daemon;
pub mod decode;
pub mod diagnosis;
pub mod engine;
pub mod exporter;
pub mod fdinfo;
pub mod filter;
pub mod handler;
pub mod heap;
pub mod history;
pub mod host;
pub mod inventory;
pub mod kallsyms;
pub mod metrics;
pub mod object;
pub mod output;
pub mod pace;
pub mod pipeline;
pub mod ports;
pub mod probes;
pub mod reader;
pub mod readings;
pub mod record;
pub mod sink;
pub mod stream;
pub mod survey;
pub mod time;
