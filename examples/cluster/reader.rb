# Reads the keys that come on standard input, each on a line: ruby reader.rb HOST:PORT,...
require "dalli"

Dalli.logger.level = Logger::FATAL
options = { raw: true, failover: false, down_retry_delay: 0.5, socket_timeout: 0.2 }
client = Dalli::Client.new(ARGV[0].split(","), **options)
$stdout.sync = true
$stdin.each_line do |key|
  puts client.get(key.strip) || "miss"
rescue Dalli::DalliError
  puts "error"
end
