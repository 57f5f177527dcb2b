//! What the programs' admin servers say: readiness and metrics, over plain HTTP on loopback.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::Result;

/// Whether an admin server says that its program is ready.
#[must_use]
pub fn is_ready(admin: &str) -> bool {
    http_get(admin, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// One HTTP GET on loopback, headers and body.
///
/// # Errors
/// When nobody answers.
pub fn http_get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The sum of a metric's samples whose line begins with `series`.
#[must_use]
pub fn metric(text: &str, series: &str) -> f64 {
    text.lines()
        .filter(|line| line.starts_with(series))
        .filter_map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_their_labels() {
        let text = "# HELP x y\ndepin_readings_total{result=\"accepted\",reason=\"\"} 40\n\
                    depin_readings_total{result=\"rejected\",reason=\"OutOfRange\"} 2\nother 7\n";
        assert_eq!(metric(text, "depin_readings_total{result=\"accepted\""), 40.0);
        assert_eq!(metric(text, "depin_readings_total"), 42.0);
    }
}
