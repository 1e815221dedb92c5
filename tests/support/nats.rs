//! A real nats-server, started for a test and ended with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for a server to say where it listens.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server. Ends, and takes its folder away, when dropped.
pub struct NatsServer {
    child: Child,
    port: u16,
    arguments: Vec<String>,
    environment: Vec<(&'static str, &'static str)>,
    folder: tempfile::TempDir,
}

impl NatsServer {
    /// A server with JetStream, on a free port of the loopback.
    pub async fn start() -> Self {
        Self::with(&["-js"]).await
    }

    /// A server with these arguments beside those for its address and folder.
    pub async fn with(arguments: &[&str]) -> Self {
        Self::with_in(Vec::new(), arguments).await
    }

    /// A server with these in its environment, too.
    async fn with_in(environment: Vec<(&'static str, &'static str)>, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the server");
        let arguments: Vec<String> = arguments.iter().map(|text| text.to_string()).collect();
        let mut child = spawn(&folder, &arguments, &environment, -1);
        let port = wait_for_port(folder.path(), &mut child).await;
        Self { child, port, arguments, environment, folder }
    }

    /// A server with the users that are shipped, for a pipeline called smollm2.
    #[allow(dead_code, reason = "not every test binary looks at users")]
    pub async fn with_users() -> Self {
        let conf = concat!(env!("STAGELINE_ROOT"), "/docker/nats.conf");
        let passwords = USERS.map(|(_, variable, password)| (variable, password));
        Self::with_in(passwords.to_vec(), &["-js", "-c", conf]).await
    }

    /// Where a user that is shipped reaches it.
    #[allow(dead_code, reason = "not every test binary looks at users")]
    pub fn url_of(&self, user: &str) -> String {
        let (_, _, password) = USERS.iter().find(|(name, ..)| *name == user).expect("a user of nats.conf");
        format!("nats://{user}:{password}@127.0.0.1:{}", self.port)
    }

    /// A server with JetStream and this `max_payload`.
    #[allow(dead_code, reason = "not every test binary sends large messages")]
    pub async fn with_max_payload(bytes: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the settings");
        let settings = folder.path().join("nats.conf");
        std::fs::write(&settings, format!("max_payload: {bytes}\n")).expect("the settings are written");
        Self::with(&["-js", "-c", settings.to_str().expect("a plain path")]).await
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Has it read its settings again.
    #[allow(dead_code, reason = "most brokers' settings stay as they are")]
    pub fn reload(&self) {
        let signal = format!("reload={}", self.child.id());
        let status = Command::new(binary()).args(["--signal", &signal]).stderr(Stdio::null()).status();
        assert!(status.expect("nats-server runs").success(), "the settings are not read again");
    }

    /// Kills it, as a power cut would.
    pub fn kill(&mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("the server ends");
    }

    /// Stops it: connections stay, and nobody is answered.
    #[allow(dead_code, reason = "not every test binary stops one")]
    pub fn stop(&mut self) {
        let stopped = Command::new("sh").args(["-c", &format!("kill -s STOP {}", self.child.id())]).status();
        assert!(stopped.expect("a shell").success(), "the server can be stopped");
    }

    /// Takes away what it kept, after [`NatsServer::kill`], as where its volume is lost.
    #[allow(dead_code, reason = "not every test binary has a broker lose something")]
    pub fn forget(&self) {
        std::fs::remove_dir_all(self.folder.path().join("jetstream")).expect("what it kept goes");
    }

    /// Starts it again on the same port, after [`NatsServer::kill`].
    pub async fn start_again(&mut self) {
        remove_ports_files(self.folder.path());
        self.child = spawn(&self.folder, &self.arguments, &self.environment, i32::from(self.port));
        assert_eq!(wait_for_port(self.folder.path(), &mut self.child).await, self.port);
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where `scripts/test` puts the server, unless STAGELINE_NATS_SERVER names another.
fn binary() -> PathBuf {
    let named = std::env::var_os("STAGELINE_NATS_SERVER").map(PathBuf::from);
    let usual = || {
        let home = std::env::var_os("HOME").expect("HOME is set");
        PathBuf::from(home).join(".cache/stageline/bin/nats-server")
    };
    let path = named.unwrap_or_else(usual);
    assert!(path.is_file(), "no nats-server at {}: run scripts/test, which installs it", path.display());
    path
}

/// The users of docker/nats.conf: the variable of each one's password, and the password that it has here.
const USERS: [(&str, &str, &str); 4] = [
    ("door", "STAGELINE_DOOR_PASSWORD", "d00r"),
    ("stage-1", "STAGELINE_STAGE_1_PASSWORD", "one"),
    ("stage-2", "STAGELINE_STAGE_2_PASSWORD", "two"),
    ("client", "STAGELINE_CLIENT_PASSWORD", "ask"),
];

fn spawn(
    folder: &tempfile::TempDir,
    arguments: &[String],
    environment: &[(&'static str, &'static str)],
    port: i32,
) -> Child {
    let folder = folder.path().to_str().expect("a plain path");
    Command::new(binary())
        .args(["-a", "127.0.0.1", "-p", &port.to_string(), "--ports_file_dir", folder, "-sd", folder])
        .args(["-l", &format!("{folder}/log")])
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .spawn()
        .expect("nats-server starts")
}

/// Waits for the server's ports file, which it writes when it listens. It is looked for again and again, since a process
/// cannot be awaited in any other way; the deadline only turns a hang into a failure.
async fn wait_for_port(folder: &Path, child: &mut Child) -> u16 {
    let begun = Instant::now();
    let mut look = tokio::time::interval(Duration::from_millis(5));
    loop {
        look.tick().await;
        if let Some(port) = ports_files(folder).find_map(|file| port_in(&file)) {
            return port;
        }
        let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        if let Some(status) = child.try_wait().expect("the server's state") {
            panic!("nats-server ended ({status}):\n{}", log());
        }
        assert!(begun.elapsed() < PATIENCE, "nats-server does not listen:\n{}", log());
    }
}

fn ports_files(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let files = std::fs::read_dir(folder).expect("the server's folder").flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|end| end == "ports"))
}

fn remove_ports_files(folder: &Path) {
    ports_files(folder).for_each(|file| std::fs::remove_file(file).expect("the old ports file goes"));
}

/// The client port in a ports file, `{"nats": ["nats://127.0.0.1:41234"], …}`; `None` while it is being written.
fn port_in(file: &Path) -> Option<u16> {
    let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    ports["nats"][0].as_str()?.rsplit_once(':')?.1.parse().ok()
}
