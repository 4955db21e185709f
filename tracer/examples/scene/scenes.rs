//! The scenes.

use clap::Subcommand;
use serde_json::{Value, json};

use crate::stage::{Actor, Stage, conduct, say};

/// A scene.
#[derive(Clone, Debug, Subcommand)]
pub enum Scene {
    /// connect() fails for want of a port: its ports wait in TIME_WAIT.
    Exhaustion {
        /// How many ports the client has.
        #[arg(long, default_value_t = 1000)]
        ports: u16,
        /// Attempts a second once they are used up.
        #[arg(long, default_value_t = 100)]
        rate: u64,
    },
    /// Ports fill up at a rate: nothing has failed yet.
    Filling {
        /// How many ports the client has.
        #[arg(long, default_value_t = 1000)]
        ports: u16,
        /// Connections a second.
        #[arg(long, default_value_t = 50)]
        rate: u64,
        /// By how much that grows each second.
        #[arg(long, default_value_t = 0)]
        growth: u64,
    },
    /// Ports are held for a while by each connection, and as many come free as are taken.
    Steady {
        /// How many ports the client has.
        #[arg(long, default_value_t = 150)]
        ports: u16,
        /// Connections a second.
        #[arg(long, default_value_t = 40)]
        rate: u64,
        /// How long each is kept, milliseconds.
        #[arg(long, default_value_t = 2000)]
        keep: u64,
    },
    /// A server never closes what its peers have closed.
    CloseWait {
        /// How many it has kept when the scene is set.
        #[arg(long, default_value_t = 60)]
        first: u64,
        /// How many more each second.
        #[arg(long, default_value_t = 10)]
        rate: u64,
    },
    /// Much traffic, nothing wrong.
    Healthy {
        /// Connections a second; 0: as fast as can be.
        #[arg(long, default_value_t = 500)]
        rate: u64,
    },
    /// connect() fails beside many TIME_WAITs, which are not the reason.
    Refused {
        /// How many TIME_WAITs there are.
        #[arg(long, default_value_t = 400)]
        first: u64,
        /// Attempts a second.
        #[arg(long, default_value_t = 50)]
        rate: u64,
    },
    /// Six programs, of which one has used up its ports.
    Crowd {
        /// Ports of that one.
        #[arg(long, default_value_t = 20_000)]
        ports: u16,
        /// Connections of each of the others.
        #[arg(long, default_value_t = 16_000)]
        others: u64,
    },
}

const SERVER: &str = "10.77.0.2";

/// Plays `scene` until stdin ends.
pub fn play(scene: &Scene) {
    match *scene {
        Scene::Exhaustion { ports, rate } => exhaustion(ports, rate),
        Scene::Filling {
            ports,
            rate,
            growth,
        } => filling(ports, rate, growth),
        Scene::Steady { ports, rate, keep } => steady(ports, rate, keep),
        Scene::CloseWait { first, rate } => close_wait(first, rate),
        Scene::Healthy { rate } => healthy(rate),
        Scene::Refused { first, rate } => refused(first, rate),
        Scene::Crowd { ports, others } => crowd(ports, others),
    }
}

fn server(stage: &Stage, name: &str, port: u16, close: &str) -> Actor {
    let words = format!("--listen 0.0.0.0:{port} --close {close}");
    let mut server = Actor::start(&stage.pair.second, name, &words);
    server.hear("ready");
    server
}

/// A client of the first namespace, once it has made its first connections, and what it did.
fn client(stage: &Stage, name: &str, port: u16, words: &str) -> (Actor, Value) {
    let words = format!("--connect {SERVER}:{port} {words}");
    let mut client = Actor::start(&stage.pair.first, name, &words);
    let done = client.hear("ready");
    (client, done)
}

/// Says that the scene is set, with what is known of its `client`.
fn ready(stage: &Stage, client: &Actor, port: u16, done: Value, more: Value) {
    let mut facts = json!({
        "netns": stage.pair.first.inode,
        "client": client.pid(),
        "destination": format!("{SERVER}:{port}"),
        "done": done,
    });
    if let (Some(facts), Value::Object(more)) = (facts.as_object_mut(), more) {
        facts.extend(more);
    }
    say("ready", facts);
}

fn exhaustion(ports: u16, rate: u64) {
    let stage = Stage::new(Some(ports));
    let _database = server(&stage, "database", 3306, "last");
    let words = format!("--close first --rate {rate}");
    let (mut checkout, done) = client(&stage, "checkout", 3306, &words);
    ready(&stage, &checkout, 3306, done, json!({ "capacity": ports }));
    conduct(&mut [("checkout", &mut checkout)]);
}

fn filling(ports: u16, rate: u64, growth: u64) {
    let stage = Stage::new(Some(ports));
    let _database = server(&stage, "database", 3306, "last");
    let words = format!("--close first --first 0 --rate {rate} --growth {growth}");
    let (mut checkout, done) = client(&stage, "checkout", 3306, &words);
    ready(&stage, &checkout, 3306, done, json!({ "capacity": ports }));
    conduct(&mut [("checkout", &mut checkout)]);
}

fn steady(ports: u16, rate: u64, keep: u64) {
    let stage = Stage::new(Some(ports));
    // It closes first: no TIME_WAIT is the client's.
    let _cache = server(&stage, "cache", 6379, "first");
    let words = format!("--close last --first 0 --rate {rate} --keep {keep}");
    let (mut checkout, done) = client(&stage, "checkout", 6379, &words);
    ready(&stage, &checkout, 6379, done, json!({ "capacity": ports }));
    conduct(&mut [("checkout", &mut checkout)]);
}

fn close_wait(first: u64, rate: u64) {
    let stage = Stage::new(None);
    let reports = server(&stage, "reports", 8080, "never");
    let words = format!("--close first --first {first} --rate {rate}");
    let (mut browser, done) = client(&stage, "browser", 8080, &words);
    // It is the server that it is about.
    let about = json!({ "netns": stage.pair.second.inode, "server": reports.pid() });
    ready(&stage, &browser, 8080, done, about);
    conduct(&mut [("browser", &mut browser)]);
}

fn healthy(rate: u64) {
    let stage = Stage::new(None);
    let _web = server(&stage, "web", 80, "first");
    let words = format!("--close last --first 0 --rate {rate}");
    let (mut checkout, done) = client(&stage, "checkout", 80, &words);
    ready(&stage, &checkout, 80, done, Value::Null);
    conduct(&mut [("checkout", &mut checkout)]);
}

fn refused(first: u64, rate: u64) {
    let stage = Stage::new(Some(1000));
    let database = server(&stage, "database", 3306, "last");
    let words = format!("--close first --first {first} --rate {rate}");
    let (mut checkout, done) = client(&stage, "checkout", 3306, &words);
    database.end();
    ready(&stage, &checkout, 3306, done, json!({ "capacity": 1000 }));
    conduct(&mut [("checkout", &mut checkout)]);
}

fn crowd(ports: u16, others: u64) {
    let stage = Stage::new(Some(ports));
    let names = ["checkout", "search", "mail", "images", "login"];
    let mut actors = Vec::new();
    let mut servers = vec![server(&stage, "ledger", 5000, "last")];
    for (port, name) in (5001..).zip(names) {
        servers.push(server(&stage, "backend", port, "first"));
        let words = format!("--connect {SERVER}:{port} --close last --first {others} --rate 40");
        actors.push((name, Actor::start(&stage.pair.first, name, &words)));
    }
    let words = format!("--connect {SERVER}:5000 --close first --rate 100");
    let billing = Actor::start(&stage.pair.first, "billing", &words);
    let pid = billing.pid();
    actors.push(("billing", billing));
    let mut actors: Vec<(&str, &mut Actor)> = actors
        .iter_mut()
        .map(|(name, actor)| (*name, actor))
        .collect();
    let done = actors.iter_mut().map(|(name, actor)| {
        let tally = actor.hear("ready");
        ((*name).to_owned(), tally)
    });
    let done: serde_json::Map<_, _> = done.collect();
    say(
        "ready",
        json!({
            "netns": stage.pair.first.inode,
            "client": pid,
            "destination": format!("{SERVER}:5000"),
            "capacity": ports,
            "done": done,
        }),
    );
    conduct(&mut actors);
}
