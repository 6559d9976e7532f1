"""The closed table of units and counted things: what is not in it, nor a noun of the question, is no unit.

A line of `UNITS` reads `dimension | factor | symbols | words`. The factor converts to the first unit of its dimension,
a second number is added (temperatures). Symbols count in their exact case, words in any case and with a plural ending;
a `*` allows the decimal prefixes (`*m` reads mm, cm, km; `*meter` reads kilometer).
"""

from __future__ import annotations

UNITS = """
length | 1 | *m | *meter *metre 米 公尺
length | 1000 | | 公里 千米
length | 1/100 | | 厘米 公分
length | 1/10 | | 分米
length | 1/1000 | | 毫米
length | 1/1000000 | | micron 微米
length | 1/1000000000 | | 纳米
length | 10/3 | | 丈
length | 1/3 | | 尺
length | 1/30 | | 寸
length | .0254 | in in. | inch 英寸
length | .3048 | ft ft. | foot feet 英尺
length | .9144 | yd yds yd. | yard 码
length | 1609.344 | mi mi. | mile 英里
length | 1852 | nmi | 海里 nautical-mile
length | 1e-10 | Å | angstrom ångström
length | 149597870700 | au AU |
length | 9460730472580800 | ly | lightyear light-year 光年
length^2 | 10000 | ha | hectare 公顷
length^2 | 2000/3 | | 亩
length^2 | 4046.8564224 | ac | acre 英亩
length^3 | 1/1000 | *L *l ℓ | *liter *litre 升 公升
length^3 | 1/1000000 | cc | 毫升
length^3 | .003785411784 | gal gal. | gallon 加仑
length^3 | .000946352946 | qt qts | quart
length^3 | .000473176473 | | pint
length^3 | .0002365882365 | | cup
length^3 | .0000295735295625 | | fluid-ounce
length^3 | .00001478676478125 | tbsp | tablespoon
length^3 | .00000492892159375 | tsp | teaspoon
mass | 1/1000 | *g gm gms | *gram *gramme 克
mass | 1 | | kilo 千克 公斤
mass | 1/1000000 | | 毫克
mass | 1/2 | | 斤
mass | 1000 | t | tonne metric-ton 吨
mass | .45359237 | lb lbs lb. lbs. | pound 磅
mass | .028349523125 | oz oz. | ounce 盎司
mass | 907.18474 | | ton short-ton
mass | 1/5000 | ct | carat 克拉
time | 1 | s sec secs sec. | second 秒 秒钟
time | 1/1000 | ms | millisecond 毫秒
time | 1/1000000 | μs us | microsecond 微秒
time | 1/1000000000 | ns | nanosecond 纳秒
time | 60 | min mins min. | minute 分钟 分
time | 3600 | h hr hrs hr. | hour 小时 时
time | 86400 | d | day 天 日
time | 604800 | wk wks | week 周 星期
time | 1209600 | | fortnight
time | 2629746 | mo mos | month 个月 月
time | 31556952 | yr yrs yr. | year 年
time | 315569520 | | decade
time | 3155695200 | | century 世纪
angle | 1 | ° deg ^{o} ^o | degree 度
angle | 1/60 | ′ | arcminute
angle | 1/3600 | ″ | arcsecond
angle | 57.29577951308232 | rad rads | radian 弧度
angle | 360 | rev | revolution
temperature | 1 | °C ℃ | celsius centigrade degree-celsius 摄氏度
temperature | 5/9 -160/9 | °F ℉ | fahrenheit degree-fahrenheit 华氏度
temperature | 1 -273.15 | °K K | kelvin 开尔文
mass length time^-2 | 1 | *N | *newton 牛 牛顿
mass length time^-2 | 4.4482216152605 | lbf |
mass length^2 time^-2 | 1 | *J | *joule 焦 焦耳
mass length^2 time^-2 | 4.184 | *cal | *calorie 卡 卡路里
mass length^2 time^-2 | 4184 | Cal | 大卡 千卡
mass length^2 time^-2 | 1.602176634e-19 | *eV | electronvolt electron-volt
mass length^2 time^-2 | 3600 | *Wh | watt-hour
mass length^2 time^-2 | 3600000 | kWhr | kilowatt-hour 千瓦时
mass length^2 time^-3 | 1 | *W | *watt 瓦 瓦特
mass length^2 time^-3 | 1000 | | 千瓦
mass length^2 time^-3 | 745.69987158227022 | hp | horsepower 马力
mass length^-1 time^-2 | 1 | *Pa | *pascal 帕 帕斯卡
mass length^-1 time^-2 | 101325 | atm | atmosphere 大气压
mass length^-1 time^-2 | 100000 | *bar | *bar
mass length^-1 time^-2 | 133.322387415 | mmHg |
mass length^-1 time^-2 | 6894.757293168361 | psi |
time^-1 | 1 | *Hz | *hertz 赫兹 赫
time^-1 | 1/60 | rpm bpm |
current | 1 | *A | *ampere *amp 安 安培
current time | 1 | *Cb | *coulomb 库仑
mass length^2 time^-3 current^-1 | 1 | *V | *volt 伏 伏特
mass length^2 time^-3 current^-2 | 1 | *Ω *\\Omega *\\ohm | *ohm 欧 欧姆
mass^-1 length^-2 time^4 current^2 | 1 | *Fd μF µF nF pF mF | *farad 法拉
mass length^2 time^-2 current^-2 | 1 | *H | *henry
mass time^-2 current^-1 | 1 | mT | *tesla 特斯拉
mass length^2 time^-2 current^-1 | 1 | *Wb | *weber
length time^-1 | .44704 | mph | mph
length time^-1 | 5/18 | kph kmh kmph |
length time^-1 | 463/900 | kn kt kts | knot 节
amount | 1 | *mol | *mole 摩尔
luminosity | 1 | cd lm lx | candela lumen lux
data | 1 | *bit bps kbps Mbps Gbps | *bit 比特
data | 8 | kB KB MB GB TB PB | *byte 字节
sound | 1 | dB | decibel 分贝
usd | 1 | USD US$ | dollar buck 美元
usd | 1/100 | ¢ | cent 美分
eur | 1 | € EUR | euro 欧元
gbp | 1 | £ GBP | 英镑
gbp | 1/100 | | pence penny
cny | 1 | ¥ RMB CNY | yuan renminbi 元 块钱 人民币
cny | 1/10 | | 角
jpy | 1 | JPY | yen 日元
inr | 1 | Rs rs Rs. INR ₹ | rupee
"""
"""Cases that a table cannot settle: `C` and `F` alone may be a charge, a capacity or a temperature; see `LOOSE`."""

LOOSE = """
C F T pt pts sq cu u unit 分 点 号 pH ppm point total °T ' \"
"""
"""Units whose dimension is unknown: they go with any other and are never converted."""

COUNTS = "person people thing item object piece 个 倍 步 次 份 place way time term"
"""Things of no certain kind: they go with whatever is counted, but with no length, mass or time."""

THINGS = """
acorn animal answer ant apple apricot apartment bag ball balloon banana bar basket bead bean bear
bee bell bill bird biscuit block boat book bottle bowl box boy bracelet branch brick brother brownie
bucket bug building bunch bus bush butterfly button cake calf can candle candy car card carrot case
cat chair cherry chicken child=children class clip coin color colour column cookie corner counter
cow crab crate crayon cubes cupcake customer deer desk diagonal diamond die=dice dime dog doll
dolphin donkey donut door doughnut dress duck edge egg elephant employee eraser face factor family
fan finger fish flag flower folder fork fox friend frog fruit game gift girl giraffe glass glove
goat goldfish goose=geese grape group guest hand hat hen hole horse house insect jar jelly-bean kid
kitten kite knife=knives ladybug lamp lap leaf=leaves leg lemon letter lily line lion lollipop
magazine man=men marble marker match member monkey motorcycle mouse=mice muffin mushroom nail nickel
notebook nut orange owl package packet page paint pan pancake parrot part passenger pattern peach
peanut pear pen pencil penguin pepper pet phone picture pie pig pigeon pineapple pizza plane plant
plate player plum potato present problem puppy pumpkin question quiz rabbit rectangle ribbon ring
rock room rose row ruler sandwich scarf school seashell seat segment shape sheep sheet shell ship
shirt shoe side sister slice snack snail snake soccer-ball sock song spider spoon sphere squares
stamp star step stick sticker stone story store strawberry student sweater symbol table tank teacher
team teddy-bear tent test ticket tile tomato tool toy train tray tree triangle truck tulip turtle
umbrella van vase vertex=vertices vote voter wagon wall watch watermelon wheel whale window winner
woman=women word worker worm zebra circle hexagon pentagon polygon solution roots angle axis=axes
line-of-symmetry photo photograph bike bicycle country 人 只 条 张 本 支 名 位
棵 辆 块 件 套 间 层 页 排 行 列 桶 瓶 杯 盒
袋 箱 头 匹 朵 颗 粒 岁 种 组 串 艘 架 台 道 题 圈 段 根
枝 面 座 所 家 户 班 队 学生 苹果 人民 同学 车 树 鸟 鱼 花 书 球 鸡 鸭 兔 羊 牛 笔 铅笔 把 筐 篮 堆 片
"""
"""What pictures and word problems count. Their dimension is the thing itself: 4 apples are not 4 pears."""

SYMBOL_PREFIXES = {
    **{"p": "1e-12", "n": "1e-9", "μ": "1e-6", "µ": "1e-6", "u": "1e-6", "m": "1e-3", "c": "1e-2", "d": "1e-1"},
    **{"h": "1e2", "k": "1e3", "K": "1e3", "M": "1e6", "G": "1e9", "T": "1e12"},
}
WORD_PREFIXES = {
    **{"pico": "1e-12", "nano": "1e-9", "micro": "1e-6", "milli": "1e-3", "centi": "1e-2", "deci": "1e-1"},
    **{"hecto": "1e2", "kilo": "1e3", "mega": "1e6", "giga": "1e9", "tera": "1e12"},
}
