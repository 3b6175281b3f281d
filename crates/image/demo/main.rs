//! The one program of the demo image: a web server that says who answers, and a few tools to look around with.
//!
//! It exists so that a fresh cluster can show deployments, services, logs, exec and rolling updates with no registry at
//! hand. The build script of the crate compiles it with the standard library alone, statically, and the image crate
//! carries it along. Like busybox it looks at the name it was called by; `/demo NAME ...` works too.

mod dns;
mod http;
mod sys;

use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::time::Duration;

type Outcome = Result<(), String>;

struct Tool {
    name: &'static str,
    help: &'static str,
    run: fn(&[String]) -> Outcome,
}

const TOOLS: [Tool; 11] = [
    Tool {
        name: "serve",
        help: "serve [PORT]      answer http requests on PORT (80)",
        run: http::serve,
    },
    Tool {
        name: "wget",
        help: "wget URL          print what an http URL answers; options are ignored",
        run: http::fetch,
    },
    Tool {
        name: "curl",
        help: "curl URL          the same",
        run: http::fetch,
    },
    Tool {
        name: "nslookup",
        help: "nslookup NAME     ask the DNS server of the pod",
        run: dns::lookup,
    },
    Tool {
        name: "ls",
        help: "ls [DIR]          list a directory",
        run: list,
    },
    Tool {
        name: "cat",
        help: "cat [FILE...]     print files, or the input",
        run: print_files,
    },
    Tool {
        name: "echo",
        help: "echo WORD...      print words",
        run: echo,
    },
    Tool {
        name: "env",
        help: "env               print the environment",
        run: environment,
    },
    Tool {
        name: "hostname",
        help: "hostname          print the name of the pod",
        run: print_hostname,
    },
    Tool {
        name: "sleep",
        help: "sleep SECONDS     wait; `infinity` waits for ever",
        run: sleep,
    },
    Tool {
        name: "sh",
        help: "sh [-c LINE]      run these tools line by line; no variables, pipes or files",
        run: shell,
    },
];

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().collect();
    let called = words
        .first()
        .map_or("", |path| path.rsplit('/').next().unwrap_or(path))
        .to_string();
    if TOOLS.iter().any(|tool| tool.name == called) {
        words[0] = called;
    } else {
        words.remove(0);
    }
    sys::stop_on_signals(Duration::from_secs(1));
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Outcome {
    let Some((name, arguments)) = words.split_first() else {
        return help();
    };
    match TOOLS.iter().find(|tool| tool.name == name) {
        Some(tool) => (tool.run)(arguments).map_err(|error| format!("{name}: {error}")),
        None if name == "help" || name == "--help" => help(),
        None => Err(format!("{name}: not found; try help")),
    }
}

fn help() -> Outcome {
    for tool in &TOOLS {
        say(tool.help)?;
    }
    Ok(())
}

fn list(arguments: &[String]) -> Outcome {
    let directory = arguments
        .iter()
        .find(|argument| !argument.starts_with('-'))
        .map_or(".", String::as_str);
    let entries = std::fs::read_dir(directory).map_err(|error| format!("{directory}: {error}"))?;
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.iter().try_for_each(|name| say(name))
}

fn print_files(arguments: &[String]) -> Outcome {
    let mut output = io::stdout().lock();
    if arguments.is_empty() {
        return io::copy(&mut io::stdin().lock(), &mut output)
            .map(drop)
            .map_err(|error| error.to_string());
    }
    for name in arguments {
        let mut file = std::fs::File::open(name).map_err(|error| format!("{name}: {error}"))?;
        io::copy(&mut file, &mut output).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

fn echo(arguments: &[String]) -> Outcome {
    say(&arguments.join(" "))
}

fn environment(_arguments: &[String]) -> Outcome {
    std::env::vars_os().try_for_each(|(name, value)| {
        say(&format!(
            "{}={}",
            name.to_string_lossy(),
            value.to_string_lossy()
        ))
    })
}

fn print_hostname(_arguments: &[String]) -> Outcome {
    say(&hostname())
}

fn sleep(arguments: &[String]) -> Outcome {
    let text = arguments.first().ok_or("how long?")?;
    if text == "infinity" {
        loop {
            std::thread::park();
        }
    }
    let seconds: f64 = text.parse().map_err(|_| format!("{text} is no number"))?;
    std::thread::sleep(Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?);
    Ok(())
}

fn shell(arguments: &[String]) -> Outcome {
    if let [option, line, ..] = arguments
        && option == "-c"
    {
        return run_line(line).unwrap_or(Ok(()));
    }
    let terminal = io::IsTerminal::is_terminal(&io::stdin());
    if terminal {
        say("This shell knows only the tools of the demo image; try help.")?;
    }
    let mut last = Ok(());
    loop {
        if terminal {
            let directory = std::env::current_dir().unwrap_or_default();
            print!("{} # ", directory.display());
            io::stdout().flush().map_err(|error| error.to_string())?;
        }
        let mut line = String::new();
        if io::stdin()
            .lock()
            .read_line(&mut line)
            .map_err(|error| error.to_string())?
            == 0
        {
            return last;
        }
        match run_line(&line) {
            None => return last,
            Some(outcome) => last = outcome,
        }
        if let (true, Err(error)) = (terminal, &last) {
            eprintln!("{error}");
            last = Ok(());
        }
    }
}

/// `None` after `exit`.
fn run_line(line: &str) -> Option<Outcome> {
    let mut outcome = Ok(());
    for command in line.split(';') {
        let words: Vec<String> = command
            .split_whitespace()
            .map(|word| word.trim_matches(['"', '\'']).to_string())
            .collect();
        outcome = match words.first().map(String::as_str) {
            None => continue,
            Some("exit") => return None,
            Some("cd") => {
                let directory = words.get(1).map_or("/", String::as_str);
                std::env::set_current_dir(directory)
                    .map_err(|error| format!("cd: {directory}: {error}"))
            }
            Some(_) => run(&words),
        };
    }
    Some(outcome)
}

fn say(line: &str) -> Outcome {
    writeln!(io::stdout(), "{line}").map_err(|error| error.to_string())
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap_or_default()
        .trim()
        .to_string()
}
