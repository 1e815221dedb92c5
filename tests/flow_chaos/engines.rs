//! The engines, and what is done to them.

use crate::functions::flows;
use crate::nats::NatsServer;
use crate::programs::{Program, signal};
use serde_json::Value;
use stageline_base::prng::Prng;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// An engine is killed.
    Kill,
    /// An engine stands still for longer than its lease.
    Stop,
    /// An engine is told to end.
    Terminate,
    /// The broker is killed, and started again.
    Broker,
}

impl Fault {
    pub const ALL: [Self; 4] = [Self::Kill, Self::Stop, Self::Terminate, Self::Broker];
}

/// Where engines are, as far as they live: shared with those who call them.
pub type Addresses = Arc<Mutex<Vec<Option<String>>>>;

/// An engine's place.
struct Place {
    program: Option<Program>,
    /// Until then it stands still.
    stopped: Option<Instant>,
    /// Until then nobody is there.
    away: Option<Instant>,
    lines: Vec<String>,
}

pub struct Engines {
    places: Vec<Place>,
    addresses: Addresses,
    arguments: Vec<String>,
    broker_away: Option<Instant>,
    _folder: tempfile::TempDir,
}

impl Engines {
    pub async fn start(count: usize, broker: &str, gateway: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("flows.yml");
        std::fs::write(&file, flows(gateway)).expect("the flows are written");
        let arguments = ["flow", "up", file.to_str().expect("a plain path"), "--nats", broker, "--http", "127.0.0.1:0"];
        let arguments = arguments.into_iter().map(str::to_owned).chain(["--healthcheck-interval".into(), "0s".into()]);
        let place = || Place { program: None, stopped: None, away: None, lines: Vec::new() };
        let mut engines = Self {
            places: (0..count).map(|_| place()).collect(),
            addresses: Arc::new(Mutex::new(vec![None; count])),
            arguments: arguments.collect(),
            broker_away: None,
            _folder: folder,
        };
        for place in 0..count {
            engines.begin(place);
            engines.heard(place, true).await;
        }
        engines
    }

    pub fn addresses(&self) -> Addresses {
        Arc::clone(&self.addresses)
    }

    fn begin(&mut self, place: usize) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.places[place].program = Some(Program::start(&arguments));
        self.places[place].away = None;
    }

    /// Notes where an engine answers, once it has said so.
    async fn heard(&mut self, place: usize, waits: bool) {
        let Some(program) = &self.places[place].program else { return };
        let address = |lines: &[String]| lines.iter().rev().find_map(|line| ready_at(line));
        let found = match waits {
            true => Some(program.logged("an engine to be ready", address).await),
            false => address(&program.lines.borrow()),
        };
        if found.is_some() {
            self.addresses.lock().expect("nobody panics")[place] = found;
        }
    }

    /// Has those go on whose time it is.
    pub async fn mend(&mut self) {
        let now = Instant::now();
        for place in 0..self.places.len() {
            if self.places[place].stopped.is_some_and(|until| until <= now) {
                self.places[place].stopped = None;
                if let Some(program) = &self.places[place].program {
                    signal("CONT", &program.pid.to_string());
                }
            }
            if self.places[place].away.is_some_and(|until| until <= now) {
                self.end(place).await;
                self.begin(place);
            }
            if self.addresses.lock().expect("nobody panics")[place].is_none() {
                self.heard(place, false).await;
            }
        }
    }

    /// Does something to somebody.
    pub async fn strike(&mut self, random: &mut Prng, broker: &mut NatsServer) -> Fault {
        let place = random.below(self.places.len() as u64) as usize;
        let fault = match random.below(10) {
            0..4 => Fault::Kill,
            4..7 => Fault::Stop,
            7..9 => Fault::Terminate,
            _ => Fault::Broker,
        };
        let until = Instant::now() + Duration::from_millis(200 + random.below(2500));
        match fault {
            Fault::Kill => {
                self.addresses.lock().expect("nobody panics")[place] = None;
                if let Some(program) = &mut self.places[place].program {
                    program.kill().await;
                }
                (self.places[place].away, self.places[place].stopped) = (Some(until), None);
            }
            Fault::Stop => {
                if let Some(program) = self.places[place].program.as_ref().filter(|_| self.places[place].away.is_none())
                {
                    signal("STOP", &program.pid.to_string());
                    self.places[place].stopped = Some(until + Duration::from_secs(3));
                }
            }
            Fault::Terminate => {
                self.addresses.lock().expect("nobody panics")[place] = None;
                if let Some(program) = self.places[place].program.as_ref().filter(|_| self.places[place].away.is_none())
                {
                    signal("CONT", &program.pid.to_string());
                    program.terminate();
                }
                (self.places[place].away, self.places[place].stopped) = (Some(until + Duration::from_secs(3)), None);
            }
            Fault::Broker => {
                broker.kill();
                broker.start_again().await;
                self.broker_away = Some(until);
            }
        }
        fault
    }

    async fn end(&mut self, place: usize) {
        if let Some(mut program) = self.places[place].program.take() {
            program.kill().await;
            self.places[place].lines.extend(program.lines.borrow().iter().cloned());
        }
    }

    /// Everybody is there, and stays.
    pub async fn calm(&mut self, _broker: &mut NatsServer) {
        for place in 0..self.places.len() {
            if self.places[place].stopped.take().is_some()
                && let Some(program) = &self.places[place].program
            {
                signal("CONT", &program.pid.to_string());
            }
            if self.places[place].away.take().is_some() {
                self.end(place).await;
                self.begin(place);
            }
            self.heard(place, true).await;
        }
    }

    /// What they have logged, the last of it.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for (place, it) in self.places.iter().enumerate() {
            let now = it.program.as_ref().map(|program| program.lines.borrow().clone()).unwrap_or_default();
            let lines: Vec<&String> = it.lines.iter().chain(&now).collect();
            for line in &lines[lines.len().saturating_sub(30)..] {
                text.push_str(&format!("engine {place}: {line}\n"));
            }
        }
        text
    }

    /// One that lives.
    pub fn any(&self) -> String {
        let addresses = self.addresses.lock().expect("nobody panics");
        addresses.iter().flatten().next().expect("an engine lives").clone()
    }
}

/// The address in a line of an engine's log that says that it is ready.
fn ready_at(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = if line["fields"].is_object() { &line["fields"] } else { &line };
    (fields["message"] == "ready").then(|| format!("http://{}", fields["address"].as_str().unwrap_or_default()))
}
