# Ruby's dalli. Usage: ruby dalli.rb VARIANT HOST:PORT,...
require "dalli"
require "json"
require "set"

variant, servers = ARGV
options = variant == "json" ? { serializer: JSON } : {}
client = Dalli::Client.new(servers.split(","), **options)
set_options = variant == "raw" ? { raw: true } : {}
VALUES = {
  "text" => "text", "unicode" => "clé ключ", "empty" => "", "long" => "abcdefghij" * 2000,
  "huge" => "0123456789abcdef" * 10_000,
  "int" => 41, "zero" => 0, "negative" => -5, "large" => 1 << 40, "float" => 1.5,
  "third" => 1 / 3.0, "true" => true, "false" => false, "null" => nil,
  "bytes" => "\xff\x00".b, "list" => [1, "x"]
}.freeze
MISSING = Object.new

def hex(text)
  text.unpack1("H*")
end

def described(value)
  case value
  when MISSING then "missing "
  when String then "string #{hex(value)}"
  when Integer then "int #{hex(value.to_s)}"
  when Float then "float #{hex([value].pack('G'))}"
  when true, false then "bool #{hex(value.to_s)}"
  when nil then "null "
  else "json #{hex(JSON.dump(value))}"
  end
end

# JSON has no bytes, and dalli logs that it refuses them.
Dalli.logger.level = Logger::FATAL
$stdout.sync = true
$stdin.each_line do |line|
  command, key, name = line.split
  if command == "get"
    puts described(client.get_multi(key).fetch(key, MISSING))
  elsif !VALUES.key?(name)
    puts "unknown"
  else
    begin
      puts client.set(key, VALUES[name], nil, set_options) ? "ok" : "failed"
    rescue Dalli::MarshalError
      puts "unknown"
    end
  end
end
puts "version #{Dalli::VERSION}"
