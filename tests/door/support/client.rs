//! A client that writes bytes as it is told and reads replies to the letter.

use serde_json::Value;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A reply.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body, which must be JSON and say so.
    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_str(&self.body).unwrap()
    }

    /// The error in the body, checked to be whole; its class and message.
    pub fn error(&self) -> (String, String) {
        let error = &self.json()["error"];
        assert!(error["what_to_do"].as_str().is_some_and(|words| !words.is_empty()), "{self:?}");
        let text = |field: &str| error[field].as_str().unwrap_or_else(|| panic!("no {field} in {self:?}")).to_string();
        (text("class"), text("message"))
    }
}

/// A connection to a door.
pub struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), read: Vec::new() }
    }

    /// Sends `bytes`; a server that no longer listens is no error here.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Reads on; false at the end.
    async fn more(&mut self) -> bool {
        self.stream.read_buf(&mut self.read).await.is_ok_and(|count| count > 0)
    }

    /// Waits until there is something to read.
    pub async fn arrives(&mut self) {
        while self.read.is_empty() && self.more().await {}
    }

    /// All bytes up to and with `end`.
    pub async fn read_until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|w| w == end.as_bytes()) {
                let rest = self.read.split_off(at + end.len());
                return String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap();
            }
            assert!(self.more().await, "the connection ended after {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    /// All bytes until the server closes.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.read)
    }

    /// The next reply; its body must have a length, come in chunks, or be absent.
    pub async fn reply(&mut self) -> Reply {
        let head = self.read_until("\r\n\r\n").await;
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_string(), value.to_string()));
        let headers: Vec<(String, String)> = lines.filter_map(header).collect();
        let mut reply = Reply { status, headers, body: String::new() };
        if reply.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = self.read_until("\r\n").await;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                reply.body += self.exactly(size + 2).await.strip_suffix("\r\n").unwrap();
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = reply.header("content-length") {
            let length = length.parse().unwrap();
            reply.body = self.exactly(length).await;
        }
        reply
    }

    /// The data of the next chunk.
    pub async fn chunk(&mut self) -> String {
        let size = self.read_until("\r\n").await;
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        self.exactly(size + 2).await.strip_suffix("\r\n").unwrap().to_string()
    }

    async fn exactly(&mut self, length: usize) -> String {
        while self.read.len() < length {
            assert!(self.more().await, "the reply broke off after {:?}", String::from_utf8_lossy(&self.read));
        }
        let rest = self.read.split_off(length);
        String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap()
    }
}

/// Sends `request` on a connection of its own and reads the reply.
pub async fn exchange(address: SocketAddr, request: &[u8]) -> Reply {
    let mut connection = Connection::open(address).await;
    connection.send(request).await;
    connection.reply().await
}
