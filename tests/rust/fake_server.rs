//! A memcached in a few lines, whose items and commands a test can see. It can stand still, die and
//! come back.
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;

use _emcache::pool::Address;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};

#[derive(Clone)]
pub struct FakeServer(Rc<Server>);

struct Server {
    at: SocketAddr,
    /// Value and exptime.
    items: RefCell<BTreeMap<String, (String, i64)>>,
    commands: RefCell<Vec<String>>,
    is_stopped: Cell<bool>,
    continued: Notify,
    /// The reply to every `delete`, instead of the usual one.
    refusal: Cell<Option<&'static str>>,
    tasks: RefCell<Vec<JoinHandle<()>>>,
}

impl FakeServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self(Rc::new(Server {
            at: listener.local_addr().unwrap(),
            items: RefCell::default(),
            commands: RefCell::default(),
            is_stopped: Cell::new(false),
            continued: Notify::new(),
            refusal: Cell::new(None),
            tasks: RefCell::default(),
        }));
        server.serve(listener);
        server
    }

    fn serve(&self, listener: TcpListener) {
        let server = self.clone();
        let accepting = spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = spawn_local(server.clone().answer(stream));
                server.0.tasks.borrow_mut().push(serving);
            }
        });
        self.0.tasks.borrow_mut().push(accepting);
    }

    pub fn address(&self) -> Address {
        Address::Tcp { host: "127.0.0.1".into(), port: self.0.at.port() }
    }

    /// Ends the server, with its items if they are not `kept`.
    pub async fn kill(&self, are_kept: bool) {
        for task in self.0.tasks.take() {
            task.abort();
            let _ = task.await;
        }
        if !are_kept {
            self.0.items.borrow_mut().clear();
        }
    }

    pub fn restart(&self) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.0.at).unwrap();
        self.serve(socket.listen(16).unwrap());
    }

    /// It accepts connections and answers nothing.
    pub fn stop(&self) {
        self.0.is_stopped.set(true);
    }

    /// It executes what it has received.
    pub fn resume(&self) {
        self.0.is_stopped.set(false);
        self.0.continued.notify_waiters();
    }

    pub fn refuse_deletes(&self, reply: Option<&'static str>) {
        self.0.refusal.set(reply);
    }

    pub fn item(&self, key: &str) -> Option<(String, i64)> {
        self.0.items.borrow().get(key).cloned()
    }

    pub fn put(&self, key: &str, value: &str) {
        self.0.items.borrow_mut().insert(key.to_owned(), (value.to_owned(), 0));
    }

    /// Takes the commands with this first word.
    pub fn take_commands(&self, verb: &str) -> Vec<String> {
        let all = self.0.commands.take();
        all.into_iter().filter(|command| command.split(' ').next() == Some(verb)).collect()
    }

    async fn answer(self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            let words: Vec<_> = line.split_whitespace().collect();
            let mut value = Vec::new();
            if words[0] == "set" {
                value = vec![0; words[4].parse::<usize>().unwrap() + 2];
                if stream.read_exact(&mut value).await.is_err() {
                    return;
                }
                value.truncate(value.len() - 2);
            }
            while self.0.is_stopped.get() {
                self.0.continued.notified().await;
            }
            let reply = self.execute(&words, &String::from_utf8(value).unwrap());
            if stream.write_all(reply.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn execute(&self, words: &[&str], value: &str) -> String {
        let mut items = self.0.items.borrow_mut();
        self.0.commands.borrow_mut().push(words.join(" "));
        match words[0] {
            "get" => {
                let mut reply = String::new();
                for key in &words[1..] {
                    if let Some((value, _)) = items.get(*key) {
                        let _ = write!(reply, "VALUE {key} 0 {}\r\n{value}\r\n", value.len());
                    }
                }
                reply + "END\r\n"
            }
            "set" => {
                let exptime = words[3].parse().unwrap();
                items.insert(words[1].to_owned(), (value.to_owned(), exptime));
                "STORED\r\n".to_owned()
            }
            "delete" => match (self.0.refusal.get(), items.remove(words[1])) {
                (Some(refusal), _) => format!("{refusal}\r\n"),
                (None, Some(_)) => "DELETED\r\n".to_owned(),
                (None, None) => "NOT_FOUND\r\n".to_owned(),
            },
            "flush_all" => {
                items.clear();
                "OK\r\n".to_owned()
            }
            _ => "ERROR\r\n".to_owned(),
        }
    }
}
