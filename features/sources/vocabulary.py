"""English words for the items of the simulated world."""

# 24 topics of twelve subtopics each.
TOPICS = {
    "cooking": "bread baking,pasta,grilled meat,vegan salad,soup,chocolate dessert,sushi,curry,breakfast eggs,street food,cheese,spices",
    "football": "goalkeeper,penalty kick,world cup,transfer market,derby match,coach tactics,fan chants,youth academy,referee,stadium,"
    "striker,league table",
    "astronomy": "black holes,planets,telescope,moon landing,comets,space station,galaxies,solar eclipse,mars rover,satellites,stars,"
    "big bang",
    "gardening": "roses,vegetables,compost,lawn mowing,greenhouse,fruit trees,pruning,orchids,garden pond,weeds,herbs,tulip bulbs",
    "finance": "stock market,mortgage,inflation,pension savings,taxes,bitcoin,insurance,interest rates,bankruptcy,bonds,credit cards,"
    "currency exchange",
    "pets": "kittens,puppy training,parrots,goldfish aquarium,hamsters,veterinarian,horses,rabbits,dog grooming,cat litter,turtles,"
    "animal shelter",
    "music": "guitar,piano sonata,jazz saxophone,hip hop,opera singer,drums,karaoke,violin,choir,techno festival,vinyl records,songwriting",
    "cars": "electric car,engine repair,racing,used car dealer,tires,motorcycle,pickup truck,parking,car crash,vintage cars,"
    "fuel prices,driving test",
    "fashion": "wedding dress,sneakers,handbags,jewelry,jeans,runway models,winter coats,hats,sunglasses,perfume,tailored suits,knitting",
    "travel": "beach resort,backpacking,airline flights,hotel rooms,cruise ship,mountain hiking,museum tour,train journey,camping,"
    "passport visa,safari,road trip",
    "medicine": "heart surgery,vaccines,diabetes,cancer therapy,dentist,pregnancy,allergies,antibiotics,broken bones,migraine,"
    "eye clinic,hospital nurses",
    "politics": "election campaign,parliament,president,protest march,treaty,senate hearing,mayor,immigration law,lobbyists,"
    "constitution,referendum,diplomacy",
    "computers": "python programming,laptop,graphics card,hacker security,database,open source,keyboard,cloud servers,machine learning,"
    "spreadsheet,printer,mobile apps",
    "movies": "horror film,romantic comedy,western,animation,superhero,film director,movie trailer,oscar award,science fiction film,"
    "stunt actors,screenplay,cinema theater",
    "architecture": "skyscraper,cathedral,bridge construction,interior design,wooden cabin,kitchen renovation,roof tiles,castle,apartment,"
    "concrete,windows,urban planning",
    "weather": "hurricane,snowstorm,drought,flood,heat wave,thunder lightning,fog,tornado,rainbow,climate change,wind,forecast",
    "mathematics": "geometry,algebra equations,statistics,prime numbers,calculus,probability,logic puzzles,fractals,graph theory,topology,"
    "cryptography,arithmetic",
    "painting": "watercolor,oil portrait,sculpture,graffiti,sketching,abstract art,calligraphy,art gallery,pottery,photography,mosaic,"
    "comics",
    "sailing": "yacht,lighthouse,fishing boat,surfing,scuba diving,submarine,harbor,kayak,pirates,coral reef,rowing,whales",
    "farming": "tractor,dairy cows,wheat harvest,sheep wool,chickens,vineyard,irrigation,corn,beekeeping,pigs,soil,olive oil",
    "parenting": "newborn baby,toddler tantrum,kindergarten,bedtime stories,teenagers,toys,homework,birthday party,adoption,twins,"
    "grandparents,school lunch",
    "fitness": "yoga,weight lifting,marathon running,swimming,cycling,boxing,stretching,diet plan,pilates,gym membership,climbing,"
    "skipping rope",
    "crime": "bank robbery,murder trial,detective,prison,fraud,smuggling,kidnapping,police chase,forensics,jury,burglary,mafia",
    "games": "chess,poker,video game console,board games,crossword,role playing,arcade,esports,dice,jigsaw puzzle,card tricks,"
    "virtual reality",
}
ASPECTS = (
    "beginner guide,price comparison,ancient history,celebrity interview,breaking news,angry opinion,photo gallery,"
    "scientific study,product review,funny jokes,safety warning,job vacancy,live competition,luxury edition,legal dispute,"
    "family holiday,travel diary,charity donation,school lesson,future technology,ghost story,love letter,environmental impact,"
    "repair manual"
)
PLACES = (
    "Tokyo,Paris,Nairobi,Texas,Brazil,Iceland,Mumbai,Sydney,Cairo,Berlin,Canada,Mexico,Rome,Moscow,Seoul,Peru,Norway,Greece,"
    "Ireland,Turkey,Vietnam,Chile,Spain,Scotland"
)
ADJECTIVES = (
    "quiet,golden,broken,early,hidden,brave,sour,gentle,rapid,ancient,bright,hollow,lucky,narrow,proud,rusty,silent,tiny,urgent,"
    "vivid,warm,wild,young,clever,dusty,eager,fancy,giant,honest,icy,jolly,keen,loose,modest,noble,odd,plain,rare,secret,tall"
)
NOUNS = (
    "lantern,river,ladder,mirror,feather,engine,blanket,compass,island,candle,bottle,whistle,button,carpet,dragon,envelope,"
    "fountain,glove,hammer,iron,jacket,kettle,lemon,magnet,needle,orange,pencil,quilt,ribbon,saddle,tunnel,umbrella,valley,wagon,"
    "yarn,zipper,anchor,basket,cradle,drum"
)
