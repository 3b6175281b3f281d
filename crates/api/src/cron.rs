//! Cron schedules as the CronJob controller of the real server reads them.
