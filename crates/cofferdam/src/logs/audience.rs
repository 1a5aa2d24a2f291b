//! Whether somebody still reads what is printed.

use std::os::fd::AsFd;

use tokio::io::Interest;

use crate::sys::Alarm;

/// Resolves when nobody reads an output any more, as `| head -1` has it: whoever follows something would else only see it at
/// the next line, which may never come. Never for a file. Cancel safe.
pub async fn nobody_reads(output: impl AsFd) {
    let alarm = output.as_fd().try_clone_to_owned().and_then(|output| Alarm::new(output, Interest::ERROR));
    match alarm {
        Ok(alarm) => drop(alarm.rings().await),
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_pipe_whose_reader_goes_is_told_from_a_file() {
        let (reader, writer) = std::io::pipe().unwrap();
        let moment = Duration::from_millis(20);
        assert!(tokio::time::timeout(moment, nobody_reads(&writer)).await.is_err(), "there is a reader");
        drop(reader);
        tokio::time::timeout(Duration::from_secs(10), nobody_reads(&writer)).await.unwrap();
        let file = tempfile::tempfile().unwrap();
        assert!(tokio::time::timeout(moment, nobody_reads(&file)).await.is_err(), "a file is kept");
    }
}
