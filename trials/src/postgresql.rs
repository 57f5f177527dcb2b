//! A real PostgreSQL server of a test's own: in a directory of its own, on a Unix socket there, run as a user who is not root.

use std::{
    fs, io,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// Whom the server runs as where the tests run as root: Debian's user, or nobody.
const USERS: [&str; 2] = ["postgres", "nobody"];
/// A start, or an orderly end, takes no longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server. It ends, and its directory goes, with the process that started it, however that ends.
#[derive(Debug)]
pub struct PostgresqlServer {
    programs: PathBuf,
    directory: PathBuf,
    user: Option<(u32, u32)>,
    port: u16,
    /// Further settings of the command line.
    settings: Vec<String>,
    keeper: Option<Child>,
}

/// Where Debian's packages, and others, put the server's programs.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    places.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.into_iter().rev().chain(std::env::split_paths(&path)).find(|place| place.join("initdb").is_file())
}

/// User and group for a server that a root process starts; none: the own user will do.
fn user() -> io::Result<Option<(u32, u32)>> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let root = status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"));
    if !root {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let entry = |name: &str| {
        let mut fields = users
            .lines()
            .map(|line| line.split(':'))
            .find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?;
        Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Ok(USERS.iter().find_map(|name| entry(name)))
}

impl PostgresqlServer {
    /// The one that all tests of this process share; none, and it is said so, where the package is not installed.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<PostgresqlServer>> = OnceLock::new();
        #[expect(clippy::expect_used, reason = "without its server a test fails")]
        SHARED.get_or_init(|| Self::start().expect("start PostgreSQL")).as_ref()
    }

    /// Starts a new one; none, and it is said so, where the package is not installed.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start() -> io::Result<Option<Self>> {
        let Some(mut server) = Self::prepare()? else { return Ok(None) };
        server.run(server.programs.join("initdb"), |command, data| {
            command
                .args(["--auth=trust", "--username=depin", "--encoding=UTF8", "--no-locale", "--no-sync", "-D"])
                .arg(data);
        })?;
        server.resume()?;
        Ok(Some(server))
    }

    /// A copy of a running one that follows it: a streaming standby.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn standby(&self) -> io::Result<Self> {
        let Some(mut standby) = Self::prepare()? else { return Err(io::ErrorKind::NotFound.into()) };
        let primary = self.directory.clone();
        standby.run(standby.programs.join("pg_basebackup"), |command, data| {
            command.args([
                "--username=depin",
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--wal-method=stream",
                "-h",
            ]);
            command.arg(primary).arg("-D").arg(data);
        })?;
        standby.resume()?;
        Ok(standby)
    }

    fn prepare() -> io::Result<Option<Self>> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Some(programs) = programs() else {
            println!("skipped: there is no PostgreSQL server; install the package `postgresql`");
            return Ok(None);
        };
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("depin-pg-{}-{number}", std::process::id()));
        fs::create_dir(&directory)?;
        let user = user()?;
        if let Some((user, group)) = user {
            chown(&directory, Some(user), Some(group))?;
        }
        Ok(Some(Self { programs, directory, user, port: 5432, settings: Vec::new(), keeper: None }))
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.directory).stdin(Stdio::null());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    fn run(&self, program: PathBuf, arguments: impl FnOnce(&mut Command, PathBuf)) -> io::Result<()> {
        let mut command = self.command(&program);
        arguments(&mut command, self.directory.join("data"));
        let output = command.output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!("{}: {}", program.display(), String::from_utf8_lossy(&output.stderr))))
    }

    /// Starts it (again) and waits until it answers.
    ///
    /// # Errors
    /// Where it does not.
    pub fn resume(&mut self) -> io::Result<()> {
        self.reap();
        // The keeper ends the server, by its id, when its own input ends: with this process at the latest.
        const KEEPER: &str = r#"
            dir=$1; shift
            "$@" >>"$dir/log" 2>&1 </dev/null &
            server=$!
            read -r word
            if [ "$word" != leave ]; then kill -QUIT $server 2>/dev/null; fi
            wait $server
            if [ -z "$word" ]; then rm -rf "$dir"; fi
        "#;
        let data = self.directory.join("data");
        let mut command = self.command(Path::new("sh"));
        command.args(["-c", KEEPER, "sh"]).arg(&self.directory).arg(self.programs.join("postgres")).arg("-D").arg(data);
        command.args([
            "-c",
            "listen_addresses=",
            "-c",
            "fsync=on",
            "-c",
            "max_connections=200",
            "-c",
            "shared_buffers=64MB",
            "-k",
        ]);
        command.arg(&self.directory).args(["-p", &self.port.to_string()]).args(&self.settings);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self.keeper = Some(command.spawn()?);
        let started = Instant::now();
        while self.sql("SELECT 1").is_err() {
            if started.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
                return Err(io::Error::other(format!("the server does not answer:\n{log}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Ends it as a crash does: nothing is written any more, sessions are cut.
    ///
    /// # Errors
    /// Where it does not end.
    pub fn crash(&mut self) -> io::Result<()> {
        self.run(self.programs.join("pg_ctl"), |command, data| {
            command.args(["stop", "-m", "immediate", "-w", "-D"]).arg(data);
        })?;
        self.reap();
        Ok(())
    }

    /// Starts it anew with TLS, on a port of the loopback address too, and answers the port.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn resume_with_tls(&mut self, certificate: &str, key: &str) -> io::Result<u16> {
        self.crash()?;
        self.port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let data = self.directory.join("data");
        for (name, content) in [("server.crt", certificate), ("server.key", key)] {
            let file = data.join(name);
            fs::write(&file, content)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
            if let Some((user, group)) = self.user {
                chown(&file, Some(user), Some(group))?;
            }
        }
        self.settings = ["-c", "listen_addresses=127.0.0.1", "-c", "ssl=on"].map(str::to_owned).into();
        self.resume()?;
        Ok(self.port)
    }

    /// Makes a standby the primary.
    ///
    /// # Errors
    /// Where it cannot be promoted.
    pub fn promote(&self) -> io::Result<()> {
        self.run(self.programs.join("pg_ctl"), |command, data| {
            command.args(["promote", "-w", "-D"]).arg(data);
        })
    }

    /// Lets the keeper of a server that ended go, and leave the directory.
    fn reap(&mut self) {
        use io::Write as _;
        if let Some(mut keeper) = self.keeper.take() {
            if let Some(input) = &mut keeper.stdin {
                // Where it is gone already it needs no word.
                drop(input.write_all(b"leave\n"));
            }
            drop(keeper.wait());
        }
    }

    /// Runs SQL as the server's owner, in the database `postgres`, and answers what it prints.
    ///
    /// # Errors
    /// Where it fails.
    pub fn sql(&self, sql: &str) -> io::Result<String> {
        self.sql_in("postgres", sql)
    }

    /// Runs SQL in a database.
    ///
    /// # Errors
    /// Where it fails.
    pub fn sql_in(&self, database: &str, sql: &str) -> io::Result<String> {
        let mut command = self.command(&self.programs.join("psql"));
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "depin", "-d", database, "-h"]);
        let output = command.arg(&self.directory).args(["-p", &self.port.to_string(), "-c", sql]).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// A new, empty database's name.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn database(&self) -> io::Result<String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ledger_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.sql(&format!("CREATE DATABASE {name}"))?;
        Ok(name)
    }

    /// The URL of a database.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        Self::url_of(&[self], database)
    }

    /// The URL of a database on whichever of the servers takes writes.
    #[must_use]
    pub fn url_of(servers: &[&Self], database: &str) -> String {
        let hosts: Vec<_> =
            servers.iter().map(|server| server.directory.to_string_lossy().replace('/', "%2F")).collect();
        format!("postgresql://depin@{}/{database}", hosts.join(","))
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for PostgresqlServer {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            drop(keeper.wait());
        } else {
            // Its keeper left it.
            drop(fs::remove_dir_all(&self.directory));
        }
    }
}
