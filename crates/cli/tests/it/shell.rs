//! `wrenn shell` in a real terminal, and `wrenn logs` and `wrenn ps`.

use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use wrenn_linux::pty::{self, Size};
use wrenn_linux::stream::Stream;
use wrenn_testkit::proxy::Target;
use wrenn_testkit::{CutProxy, wait_until};

use crate::world::World;

const SOON: Duration = Duration::from_secs(30);

/// A terminal with the program in it.
struct Screen {
    master: Stream,
    slave: OwnedFd,
    before: Termios,
    child: Child,
    shown: String,
}

impl Screen {
    fn open(world: &World, base_url: &str, args: &[&str]) -> Self {
        let owner = nix::unistd::getuid().as_raw();
        let (master, slave) = pty::open(Size { cols: 91, rows: 27 }, owner).expect("a terminal");
        let before = tcgetattr(&slave).expect("its settings");
        let end = || Stdio::from(slave.try_clone().expect("a descriptor"));
        // setsid: only what runs in front of a terminal of its own hears that the window changed.
        let child = Command::new("setsid")
            .args(["--ctty", env!("CARGO_BIN_EXE_wrenn"), "shell"])
            .args(args)
            .env("WRENN_BASE_URL", base_url)
            .env("WRENN_API_KEY", &world.key)
            .env("TERM", "screen-256color")
            .current_dir("/")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .kill_on_drop(true)
            .spawn()
            .expect("starts");
        Self { master, slave, before, child, shown: String::new() }
    }

    async fn type_in(&self, keys: &str) {
        self.master.write_all(keys.as_bytes()).await.expect("typed");
    }

    /// Waits until this is shown, and takes everything up to it.
    async fn until(&mut self, wanted: &str) -> String {
        let reading = async {
            let mut buffer = [0; 4096];
            loop {
                if let Some(at) = self.shown.find(wanted) {
                    let rest = self.shown.split_off(at + wanted.len());
                    return std::mem::replace(&mut self.shown, rest);
                }
                match self.master.try_read(&mut buffer).expect("readable") {
                    Some(count) => self.shown.push_str(&String::from_utf8_lossy(&buffer[..count])),
                    None => self.master.readable().await.expect("readable"),
                }
            }
        };
        match tokio::time::timeout(SOON, reading).await {
            Ok(seen) => seen,
            Err(_) => panic!("no {wanted:?} in {:?}", self.shown),
        }
    }

    fn is_raw(&self) -> bool {
        tcgetattr(&self.slave).expect("its settings").local_flags != self.before.local_flags
    }

    /// Waits for the end; its exit code. The terminal must be as it was.
    async fn end(&mut self) -> i32 {
        let status = tokio::time::timeout(SOON, self.child.wait()).await.expect("ends in time").expect("a status");
        let now = tcgetattr(&self.slave).expect("its settings");
        assert_eq!(now.local_flags, self.before.local_flags, "the terminal is put back");
        assert_eq!((now.input_flags, now.output_flags), (self.before.input_flags, self.before.output_flags));
        status.code().expect("no signal")
    }
}

#[tokio::test]
async fn a_shell_feels_like_this_terminal_and_ends_with_its_exit_code() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.done(&["capsule", "create"]).await;
    let mut screen = Screen::open(&world, &world.base_url, &[&id, "-e", "PS1=$ ", "--", "/bin/sh", "-i"]);
    screen.until("$ ").await;
    assert!(screen.is_raw(), "keys pass as they are");
    screen.type_in("stty size; echo $TERM\r").await;
    screen.until("27 91\r\nscreen-256color\r\n").await;
    pty::set_size(screen.master_fd(), Size { cols: 132, rows: 43 }).expect("resized");
    // The new size is on its way: ask until it is there.
    let asked = async {
        loop {
            screen.type_in("stty size; echo as''ked\r").await;
            if screen.until("asked").await.contains("43 132") {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, asked).await.expect("the size arrives");
    // Ctrl-C is for the program in there: once it runs, because a shell that is hit itself throws away what was typed meanwhile.
    screen.type_in("sh -c 'echo it ru''ns; exec sleep 1000'\r").await;
    screen.until("it runs").await;
    screen.type_in("\u{3}").await;
    screen.until("$ ").await;
    screen.type_in("echo st''ill; exit 5\r").await;
    screen.until("still").await;
    assert_eq!(screen.end().await, 5);
}

impl Screen {
    fn master_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        // Either side's descriptor names the same terminal.
        self.slave.as_fd()
    }
}

#[tokio::test]
async fn a_session_is_left_gone_back_to_and_survives_a_broken_connection() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.done(&["capsule", "create"]).await;
    let mut screen = Screen::open(&world, &world.base_url, &[&id, "-e", "PS1=$ ", "--", "/bin/sh", "-i"]);
    screen.until("$ ").await;
    screen.type_in("mark=here-$((40 + 2)); echo $mark\r").await;
    screen.until("here-42\r\n").await;
    screen.type_in("\r~.").await;
    screen.until("--tag ").await;
    let tag = screen.until("`").await.trim_end_matches('`').to_owned();
    assert_eq!(screen.end().await, 0);
    assert!(world.done(&["ps", &id]).await.contains(&tag));

    let target = Target::Tcp(world.base_url.trim_start_matches("http://").parse().expect("an address"));
    let proxy = CutProxy::start(target).await;
    let through = format!("http://{}", proxy.addr());
    let mut screen = Screen::open(&world, &through, &[&id, "--tag", &tag]);
    screen.until("here-42").await;
    screen.type_in("echo again-$mark\r").await;
    screen.until("again-here-42").await;
    proxy.cut().await;
    // Keys given to a connection before anybody knows that it is broken may be lost; those typed after may not.
    screen.until("what you type meanwhile is kept").await;
    screen.type_in("echo blind-$mark\r").await;
    proxy.mend().await;
    screen.until("\u{1b}[2J").await;
    screen.until("blind-here-42").await;
    screen.type_in("exit 9\r").await;
    assert_eq!(screen.end().await, 9);
}

#[tokio::test]
async fn a_signal_and_a_refusal_put_the_terminal_back() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.done(&["capsule", "create"]).await;
    let mut screen = Screen::open(&world, &world.base_url, &[&id, "--", "echo ready; read x"]);
    screen.until("ready").await;
    wait_until("it is raw", SOON, || async { screen.is_raw().then_some(()) }).await;
    let pid = i32::try_from(screen.child.id().expect("runs")).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("signalled");
    screen.until("--tag ").await;
    assert_eq!(screen.end().await, 143);
    let mut screen = Screen::open(&world, &world.base_url, &[&id, "--tag", "pty-00000000"]);
    screen.until("no process with the tag").await;
    assert_eq!(screen.end().await, 1);
    let mut screen = Screen::open(&world, &world.base_url, &[&id, "-w", "/no/such/place"]);
    screen.until("/no/such/place").await;
    assert_eq!(screen.end().await, 1);
}

#[tokio::test]
async fn logs_show_what_was_printed_and_follow_to_the_exit() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.done(&["capsule", "create"]).await;
    let line = "echo before; echo err >&2; until [ -e go ]; do sleep 0.01; done; echo after; exit 7";
    let started = world.json(&["exec", &id, "-d", "--", line]).await;
    let (tag, pid) = (started["tag"].as_str().expect("a tag"), started["pid"].to_string());
    wait_until("it has printed", SOON, || async {
        let ran = world.run(&["logs", &id, tag]).await;
        (ran.code == 0 && ran.out == "before" && ran.err == "err").then_some(())
    })
    .await;
    let shown = world.json(&["logs", &id, &pid]).await;
    assert_eq!((&shown["stdout"], &shown["exit_code"]), (&"before\n".into(), &serde_json::Value::Null));
    assert!(world.done(&["ps", &id]).await.contains(tag));
    let (follow, go) = (["logs", &id, tag, "--follow"], ["exec", &id, "--", "touch go"]);
    let (ran, _) = tokio::join!(world.run(&follow), world.done(&go));
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (7, "before\nafter", "err"));
    assert!(world.done(&["logs", &id]).await.contains(&format!("the console of {id}")));
    assert!(world.refused(&["logs", &id, "nobody"]).await.contains("no process with the tag"));
    assert_eq!(world.run(&["logs", &id, "--follow"]).await.code, 2);
    assert!(world.refused(&["--json", "shell", &id]).await.contains("wrenn exec"));
}
